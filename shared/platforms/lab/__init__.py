"""The `lab` platform: a site is a folder on this machine; real bytes, limits simulated on wish."""
