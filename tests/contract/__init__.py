"""What every engine of the store must keep, shown by real processes, real SIGKILLs and real failed syncs."""
