"""What the logs believe beside what the sites hold: `seawall log reconcile`.

`beliefs` reads the one, `holdings` lists the other, `compare` tells them apart. Nothing here
changes anything.
"""
