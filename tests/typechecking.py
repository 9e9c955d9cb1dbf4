"""How the tests check annotations at run time: as PEP 484 has it, an int serves where a float is due."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
