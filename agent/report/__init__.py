"""`slipway report`: one HTML page about a run, or several side by side, with everything inside.

No network, no script, the same bytes each time.

    page = write_report(Path("runs/door"))
    page = write_comparison([Path("runs/door"), Path("runs/door-2")], Path("doors.html"))

`facts` gathers what the run's files say, `results` and `streams` its parts; `words` makes the sentences, `svg` with
`returns`, `training`, `timeline` and `latency` the figures; `page` puts them into the templates.
"""

from agent.report.page import write_comparison as write_comparison
from agent.report.page import write_report as write_report
