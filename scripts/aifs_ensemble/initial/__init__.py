"""Initial conditions: sources, checks, and the state file of each member.

`build.prepare_cycle` and `build.build_member` are what the workflow calls.
"""
