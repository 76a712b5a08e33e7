"""``hpcrunner doctor``: what is missing on a login node and its nodes, and how to mend it.

Facts are gathered at the edge and judged by pure functions; a judgement is a ``Finding``.
"""
