farm_report() {
  # Tells the scheduler why there will be no worker; what is not told is in the output of the job.
  printf 'farm: %s\n' "$1" >&2
  farm_text=$(printf '%.3500s' "${SLURMD_NODENAME:-$(uname -n)}: $1")
  farm_anywhere farm_post
}

farm_post() {
  case $1 in */worker/*) farm_to=${1%/worker/*}/failed/$farm_lease ;; *) return 1 ;; esac
  if command -v curl >/dev/null; then
    curl -fsS --max-time 20 -o /dev/null --data-binary "$farm_text" "$farm_to" && return
  fi
  if command -v wget >/dev/null; then
    farm_wget -T 20 -O /dev/null --post-data="$farm_text" "$farm_to" && return
  fi
  if command -v python3 >/dev/null; then
    python3 -c 'import sys, urllib.request
urllib.request.urlopen(sys.argv[1], sys.argv[2].encode("utf-8", "replace"), 20)' "$farm_to" "$farm_text" && return
  fi
  # That there is none of them may be what is to be told.
  command -v bash >/dev/null && bash -c 'LC_ALL=C; to=${1#http://}; at=${to%%/*}; host=${at%:*}; host=${host#[}
exec 3<>"/dev/tcp/${host%]}/${at##*:}" || exit
printf "POST /%s HTTP/1.1\r\nHost: %s\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s" "${to#*/}" "$at" "${#2}" "$2" >&3
read -r -t 20 _ code _ <&3 && [ "$code" = 200 ]' bash "$farm_to" "$farm_text"
} 2>/dev/null

# GNU's says nothing with -q, and others know nothing else.
farm_wget() {
  case $(wget --version 2>/dev/null) in
    *GNU*) wget -nv -t 2 "$@" ;;
    *) wget -q "$@" ;;
  esac
}

farm_fail() {
  trap - EXIT
  farm_report "$1"
  exit 1
}

farm_digest() {
  if command -v sha256sum >/dev/null; then farm_sum=$(sha256sum <"$1")
  elif command -v shasum >/dev/null; then farm_sum=$(shasum -a 256 <"$1")
  elif command -v openssl >/dev/null; then farm_sum=$(openssl dgst -sha256 -r <"$1")
  elif command -v python3 >/dev/null; then
    farm_sum=$(python3 -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())' <"$1")
  else
    farm_fail "the program cannot be checked: there is no sha256sum, shasum, openssl or python3 on PATH ($PATH)"
  fi
  farm_sum=${farm_sum%% *}
}

# With each of the programs that can, until one has the right file.
farm_fetch() {
  for farm_tool in curl wget python3; do
    command -v "$farm_tool" >/dev/null || continue
    farm_tried="$farm_tried $farm_tool"
    case $farm_tool in
      curl) farm_said=$(curl -fsS --connect-timeout 15 --max-time 900 -o "$farm_part" "$1" 2>&1) ;;
      wget) farm_said=$(farm_wget -T 60 -O "$farm_part" "$1" 2>&1) ;;
      python3) farm_said=$(python3 -c 'import shutil, sys, urllib.request
with urllib.request.urlopen(sys.argv[1], None, 60) as source, open(sys.argv[2], "wb") as part:
    shutil.copyfileobj(source, part)' "$1" "$farm_part" 2>&1) ;;
    esac || {
      farm_said=${farm_said##*'
'}
      farm_why="$farm_why
$farm_tool cannot fetch $1: ${farm_said:-without a word}"
      continue
    }
    farm_digest "$farm_part"
    [ "$farm_sum" = "$farm_sha256" ] && return
    farm_why="$farm_why
$1 has another program: its SHA-256 is $farm_sum, expected was $farm_sha256"
  done
  return 1
}

farm_find_program() {
  farm_program=$farm_folder/program-$farm_sha256
  if [ -f "$farm_program" ]; then
    farm_digest "$farm_program"
    if [ "$farm_sum" = "$farm_sha256" ]; then touch "$farm_program"; return; fi
  fi
  farm_free=$(df -Pk "$farm_folder" 2>/dev/null | { read -r farm_line; read -r farm_line farm_line farm_line farm_free farm_line; echo "$farm_free"; })
  case $farm_free in *[!0-9]* | '') ;; *)
    if [ "$farm_free" -le "$farm_kib" ]; then
      farm_fail "the scratch folder $farm_scratch is full: $farm_free KiB are free, and the program has $farm_kib"
    fi ;;
  esac
  farm_part=$farm_folder/part-$farm_me farm_why='' farm_tried=''
  if ! farm_anywhere farm_fetch; then
    rm -f "$farm_part"
    [ -n "$farm_tried" ] || farm_fail "the program cannot be fetched: there is no curl, wget or python3 on PATH ($PATH)"
    farm_fail "the program cannot be fetched:$farm_why"
  fi
  # Another job may do the same at the same time, and its worker run from the file already: that one stays.
  chmod 700 "$farm_part" || farm_fail "cannot make $farm_program"
  if ! ln "$farm_part" "$farm_program" 2>/dev/null; then
    farm_sum=''
    if [ -f "$farm_program" ]; then farm_digest "$farm_program"; fi
    [ "$farm_sum" = "$farm_sha256" ] || mv -f "$farm_part" "$farm_program" || farm_fail "cannot make $farm_program"
  fi
  rm -f "$farm_part"
}

# What workers that were killed, and programs of former times, have left.
farm_tidy() {
  for farm_left in "$farm_folder"/job-* "$farm_folder"/part-*; do
    farm_pid=${farm_left##*-}
    case $farm_pid in *[!0-9]* | '') continue ;; esac
    [ -d "/proc/$farm_pid" ] || rm -rf "$farm_left"
  done
  for farm_left in "$farm_folder"/program-*; do
    [ -z "$(find "$farm_left" -prune -mtime +30 2>/dev/null)" ] || rm -f "$farm_left"
  done
}

farm_main() {
  [ -n "${FARM_TICKET:-}" ] || farm_fail 'the job got no ticket: this site does not hand on the environment of sbatch'
  farm_scratch=${TMPDIR:-/tmp}
  [ -d "$farm_scratch" ] && [ -w "$farm_scratch" ] || farm_scratch=/tmp
  farm_folder=$farm_scratch/farm-worker-$(id -u)
  mkdir -m 700 "$farm_folder" 2>/dev/null
  [ -d "$farm_folder" ] && [ -w "$farm_folder" ] || farm_fail "the scratch folder $farm_scratch cannot be written to"
  # Anybody can make a folder of this name before us.
  if [ -L "$farm_folder" ] || [ ! -O "$farm_folder" ]; then farm_fail "$farm_folder is somebody else's"; fi
  chmod 700 "$farm_folder"
  farm_me=${SLURM_JOB_ID:-0}-$$
  farm_tidy
  if [ -z "$farm_program" ]; then farm_find_program; fi
  farm_said=$("$farm_program" --version 2>&1) || farm_fail "the program $farm_program does not run on this node: $farm_said"
  farm_job=$farm_folder/job-$farm_me
  mkdir -m 700 "$farm_job" || farm_fail "cannot make $farm_job"
  # It writes nowhere else.
  export FARM_HOME="$farm_job/home" FARM_CACHE="$farm_job/cache" TMPDIR="$farm_job"
  export XDG_STATE_HOME="$farm_job/home" XDG_CACHE_HOME="$farm_job/cache" XDG_CONFIG_HOME="$farm_job/home"
  export FARM_REPORT=''
  farm_anywhere farm_note
  trap - EXIT
  # The shell becomes the worker, which gets its signals. One that has no way to the scheduler is to say so soon.
  exec "$farm_program" worker --name "$farm_name" --slots "$farm_slots" ${farm_time:+"$farm_time"} \
    --scratch "$farm_job" --first-wait 1m </dev/null
}

farm_note() {
  FARM_REPORT="$FARM_REPORT${FARM_REPORT:+ }${1%/worker/*}/failed/$farm_lease"
  return 1
}
