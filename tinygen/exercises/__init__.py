"""Exercises that grade themselves: tasks.txt has the texts, laws.py their laws."""
