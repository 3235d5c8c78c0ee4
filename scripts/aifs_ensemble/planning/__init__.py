"""Before and after a run: machines, time, money, accounts and figures."""
