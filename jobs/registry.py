"""`epitaxy registry` as a job: `ray job submit --working-dir . -- python jobs/registry.py …`."""

from _checkout import run

if __name__ == "__main__":
    run("registry")
