"""The life of a request: validate, gather evidence, plan, run, judge, respond. Of Triton it knows only a transport."""
