"""`epitaxy quickstart` as a job: `ray job submit … -- python jobs/quickstart.py out=DIR`."""

from _checkout import run

if __name__ == "__main__":
    run("quickstart")
