"""Every performance figure of the documentation, each by one command:

    python -m benchmarks.pacing         at half of what Celery makes alone: rate, loss, rejections
    python -m benchmarks.overhead       governed no-op tasks against the same worker ungoverned
    python -m benchmarks.busy_pool      a busy pool and a burst of arrivals: is the limit kept?
    python -m benchmarks.canvas         chord, chain and group with every member deferred

Beside other limiters, those of the extra ``bench`` that are installed:

    python -m benchmarks.decision       cost of one decision, in that of redis-py's empty script
    python -m benchmarks.accuracy       what each limiter admits, against what it was told
    python -m benchmarks.pacing_strict  100 calls/s into nginx ``limit_req``
    python -m benchmarks.report         these three, with tables and plots

``--json`` prints one object; ``--help`` lists the sizes. The exit code is 1 when a bar that
the documentation states is missed.
"""
