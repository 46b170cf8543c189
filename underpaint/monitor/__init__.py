"""The monitor: a process of its own that keeps servers' settings in step with what is asked of them.

    read → demand → allocate → decide → apply → note

It talks to servers only through what they publish (metrics, model control) and through the settings file in their
store, so it can die and come back without a request noticing.
"""
