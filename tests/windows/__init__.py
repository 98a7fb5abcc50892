"""What the tests of Windows prepare build: hives, NTFS volumes, partitioned disks."""
