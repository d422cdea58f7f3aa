"""semguard's supervisor: keeps every script of List.txt running, exactly once each.

Read it in this order: `scripts` (a line of List.txt), `lifecycle` (the life of one script), `roster` (all of them),
`processes` (births and deaths), `birth` (between fork and exec), `supervisor` (the loop), `instance` (only one guard),
`adoption` (what outlived it).
"""

__version__ = "0.1.0"
