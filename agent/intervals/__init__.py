"""From readings to energy: counters cut into intervals, with the flags of each amount."""
