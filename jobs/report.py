"""`epitaxy report` as a job: `ray job submit --working-dir . -- python jobs/report.py …`."""

from _checkout import run

if __name__ == "__main__":
    run("report")
