"""``staging: gateway``: the gateway carries what nodes without a network cannot."""
