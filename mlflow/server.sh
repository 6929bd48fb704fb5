#!/usr/bin/env bash
# Starts MLflow on PostgreSQL and S3-compatible storage, as server.env beside it says; clients need its address alone.
#   mlflow/server.sh [--check] [SETTINGS]      --check: only say what is missing
# Needs `pip install 'hotspare[registry-server]'`; PYTHON names the interpreter that has it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
check=
[ "${1:-}" != --check ] || { check=yes; shift; }
settings=${1:-$here/server.env}
python=${PYTHON:-python3}

fail() { echo "$1" >&2; exit 2; }

# Read as data, never run: NAME=value lines and comments.
number=0
[ -f "$settings" ] || fail "$settings does not exist; name a settings file like $here/server.env."
while IFS= read -r line || [ -n "$line" ]; do
  number=$((number + 1))
  [[ $line =~ ^[[:space:]]*(#|$) ]] && continue
  [[ $line =~ ^([A-Z][A-Z0-9_]*)=(.*)$ ]] || fail "$settings line $number is not NAME=value."
  name=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
  [[ ! $name =~ (PASSWORD|SECRET|TOKEN|KEY) && ! $value =~ ://[^/@]*:[^/@]*@ ]] ||
    fail "$settings line $number holds a secret ($name); set it in the environment instead."
  [ -n "${!name+set}" ] || export "$name=$value"
done <"$settings"

# An empty address makes both libraries read PGHOST, PGUSER, PGPASSWORD …: no password stands in a command line.
export MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2:// MLFLOW_AUTH_CONFIG_PATH=$here/basic_auth.ini
export MLFLOW_SERVE_ARTIFACTS=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
unset MLFLOW_TRACKING_URI MLFLOW_REGISTRY_URI MLFLOW_REGISTRY_STORE_URI MLFLOW_DEFAULT_ARTIFACT_ROOT

"$python" -m pipeline.registry.server_needs
[ -z "$check" ] || exit 0
options=()
[ "$HOTSPARE_MLFLOW_AUTH" = none ] || options=(--app-name basic-auth)
# A worker imports MLflow for seconds before it answers; on a busy machine uvicorn's 5 s would kill it again and again.
exec "$python" -m mlflow server --uvicorn-opts "--timeout-worker-healthcheck 120" "${options[@]}"
