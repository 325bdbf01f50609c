"""The two training loops and what they are made of: losses, schedules, randomness."""
