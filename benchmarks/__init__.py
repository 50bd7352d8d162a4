"""Every performance figure of the documentation, each by one command:

    python -m benchmarks.pacing       2,000 calls at 200/s: makespan, loss, rejections, messages
    python -m benchmarks.overhead     governed no-op tasks against the same worker ungoverned
    python -m benchmarks.busy_pool    a busy pool and a burst of arrivals: is the limit kept?
    python -m benchmarks.canvas       chord, chain and group with every member deferred
    python -m benchmarks.decision     latency of one admission

``--json`` prints one object; ``--help`` lists the sizes. The exit code is 1 when a bar that
the documentation states is missed.
"""
