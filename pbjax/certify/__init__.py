"""Certify a network of your own: annealed chains over its parameters, and every certificate that their heat allows.

`by_annealing` does all of it in one call. Its parts serve whoever needs chunks, checkpoints or a pilot, as
`experiments/certify.py` does: `make_target` joins network, prior and rows, `begin` and `advance` run the chains,
`heat_certificates` makes the certificates.
"""

from pbjax.certify.annealing import Certified, by_annealing
from pbjax.certify.paths import Stop, advance, begin
from pbjax.certify.routes import heat_certificates
from pbjax.certify.schedules import (
    cubic_schedule,
    pilot_rows,
    pilot_schedule,
)
from pbjax.certify.target import Target, make_target

__all__ = [
    "Certified",
    "Stop",
    "Target",
    "advance",
    "begin",
    "by_annealing",
    "cubic_schedule",
    "heat_certificates",
    "make_target",
    "pilot_rows",
    "pilot_schedule",
]
