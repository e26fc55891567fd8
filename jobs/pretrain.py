"""`epitaxy pretrain` as a job: `ray job submit --working-dir . -- python jobs/pretrain.py …`."""

from _checkout import run

if __name__ == "__main__":
    run("pretrain")
