"""A task that returns its arguments, or fails."""


def clientFunction(args, files):
    if args.get("fail"):
        raise ValueError("told to fail")
    return args
