# SPDX-License-Identifier: Apache-2.0
"""Simulated hosts on one machine, for trying, tests and benchmarks.

Goals, the first before the last where they conflict: nothing outside is touched or
ended; nothing is left behind, whatever crashed; what runs is the real thing (store,
Open vSwitch, agent), started as on a real host; it is quick.

What if we crash here?  Everything that outlives a command is in a namespace that is
kept by a mount in the sandbox's folder, so ``down`` finds it.  Short commands that are
not inside yet end with us.  How does ``down`` know what is ours?  By these namespaces:
nobody else can be in them.

``sandbox`` is the whole, ``host`` one host, ``ovs`` and ``store`` what runs there,
``namespaces``, ``underlay`` and ``process`` what they stand on; ``instances`` needs the
store, ``plugger`` and ``probe`` run inside of a host; ``command``, ``report`` and
``tour`` (the demo) are what people see.
"""
