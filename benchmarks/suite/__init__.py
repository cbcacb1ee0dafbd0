"""tinygen beside its peers on this machine: whole training steps, samplings, small operations.

Each contender is a process of its own (`contenders.py`, `worker.py`), which is asked for one round at
a time while the others sleep (`measure.py`). All get the same weights, data and draws, and who
computes another loss or gradient is not timed (`equality.py`). `products.py` is the floor. `report.py`
and `chart.py` turn what was stored into tables and pictures.

To add a workload of a model that is there, write a line in `workloads.py`. To add a model, write
how tinygen makes it and what it draws, in order, in `with_tinygen.py`; its losses as functions of
parameters, a batch and these draws in `torch_networks.py` and `jax_networks.py`; and its matrix
products in `products.py`. The comparison says whether they fit. To add a contender, write a module
with a function `opened` like those of `with_*.py`, and enter it in `contenders.py`.
"""
