"""M-Bus, DL/T 645, CJ/T 188 and SunSpec devices."""
