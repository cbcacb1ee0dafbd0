"""The laboratory: the models of the handout on points in the plane, as a page.

frames.py     what each family of models shows while it trains
baselines.py  a Gaussian mixture and a kernel density estimate, to compare with
page.py       all models on the same points: one file that opens without a network
serve.py      the same page, served to this machine alone: draw points, and watch a run live
"""
