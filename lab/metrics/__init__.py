"""Scores that more than one paper uses: classes, groups of people, rankings, label maps."""
