#!/usr/bin/env bash
# Installs the programs that benchmarks/data_path.py compares with, each in its own environment.
#
#     benchmarks/peers/install.sh            all of them
#     benchmarks/peers/install.sh matgl mace some of them
#
# They go to $EPITAXY_PEERS (default ~/.cache/epitaxy-peers), about 1 GB each with a CPU build of
# torch. An environment that is complete is left alone.
set -euo pipefail

folder="${EPITAXY_PEERS:-$HOME/.cache/epitaxy-peers}"
python="${PYTHON:-python3}"
torch="torch==2.13.0"

packages() {
  case "$1" in
    fairchem) echo "fairchem-core==2.24.0 pymatgen" ;; # its edges on a CPU
    matgl) echo "matgl==4.1.2" ;;
    mace) echo "mace-torch==0.3.16" ;;
    alignn) echo "alignn==2026.8.11 matscipy==1.3.1" ;; # the neighbour list it prefers
    nvalchemi) echo "nvalchemi-toolkit-ops==0.5.0" ;;
    *) echo "unknown peer '$1'; known: fairchem matgl mace alignn nvalchemi" >&2; return 1 ;;
  esac
}

names=("$@")
((${#names[@]})) || names=(fairchem matgl mace alignn nvalchemi)
for name in "${names[@]}"; do
  wanted=$(packages "$name")
  environment="$folder/$name"
  if [[ -f "$environment/.complete" ]]; then
    echo "$name: there already ($(cat "$environment/.complete"))"
    continue
  fi
  rm -rf "$environment"
  "$python" -m venv "$environment"
  # torch first and alone: anything looser may bring gigabytes of CUDA
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$torch"
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$torch" $wanted
  echo "$wanted" >"$environment/.complete"
  echo "$name: installed $wanted in $environment"
done
