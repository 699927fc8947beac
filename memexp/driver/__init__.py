"""What the process does that a command started: says what a sweep comes to, has the missing part executed, concludes.

Trials themselves are executed elsewhere: on a cluster (`memexp.cluster`) or in this process (`memexp.local`), which are
two of the same kind (`memexp.driver.work.Executor`). Imports neither torch nor ray; imported by `memexp.sweep` only.
"""
