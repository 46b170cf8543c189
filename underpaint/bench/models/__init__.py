"""How good the models of the tiny family are."""
