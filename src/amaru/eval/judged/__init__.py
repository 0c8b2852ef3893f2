"""Conversations that another model judges: two turns rated from 1 to 10 (MT-Bench), and two models' conversations side by side."""
