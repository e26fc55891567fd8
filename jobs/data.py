"""`epitaxy data` as a job: `ray job submit --working-dir . -- python jobs/data.py ACTION …`."""

from _checkout import run

if __name__ == "__main__":
    run("data")
