"""Control: how much of the machine each variant gets, and which requests it serves, so that a promise is kept.

Nothing here knows of Triton. What decides is pure: a demand, a profile and the present state in, an allocation out.
"""
