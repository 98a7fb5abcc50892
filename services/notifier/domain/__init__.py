"""The notifier's decisions: what needs a person, and what the person is told."""
