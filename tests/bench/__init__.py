"""Side by side with supervisord and runit, in the same run: `python -m tests.bench`."""
