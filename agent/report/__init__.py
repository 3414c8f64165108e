"""`slipway report`: one HTML page about a run, with everything inside: no network, no script, the same bytes each time.

    page = write_report(Path("runs/door"))

`facts` gathers what the run's files say, `results` and `streams` its parts; `words` makes the sentences, `svg` with
`returns`, `training`, `timeline` and `latency` the figures; `page` puts them into the templates.
"""

from agent.report.page import write_report as write_report
