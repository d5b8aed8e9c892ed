# SPDX-License-Identifier: Apache-2.0
"""How long until one more port is up on a host that has hundreds already.

Clock and floor are those of ``wiring``, for one interface: the floor's bundle holds
the flows of that one port and what changes of the network's because of it.
"""

from __future__ import annotations

from bench import wiring
from bench.figures import Result
from bench.lab import lab
from bench.options import Options

NAME = "one-port"
REPEATS = 25
QUICK_REPEATS = 3


def run(options: Options) -> Result:
    """Plug and unplug one port again and again, with ``options.most`` others there."""
    with lab(NAME) as place:
        place.start_agent()
        place.bare.make_bridge()
        others = place.add_ports(options.most)
        sample = wiring.plug(place, others)
        wiring.plug_bare(place.bare, others, sample)
        place.add_ports(1)
        place.wait_idle()
        repeats = QUICK_REPEATS if options.quick else REPEATS
        return Result(NAME, wiring.measure(place, place.interfaces[-1:], repeats).figures(NAME, options.most))
