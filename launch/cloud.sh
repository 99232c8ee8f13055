# Sourced by the launchers in this folder: flags, required values, quoting, dry run, growing pauses, questions.
# shellcheck shell=bash
# Runs on a user's laptop: bash 3.2 and BSD tools are enough.
# The sourcing script says who it is: script, its whole path, and program, its name for messages.
: "${script:?}" "${program:?}"

# The header of a launcher is its help text: from line 2 to the first empty line.
usage() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$script"
}

# One line on stderr and exit code 2: the user's mistake.
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

say() {
  printf '%s\n' "$*"
}

# Prints words so that a shell reads back exactly these words; not by printf %q, whose old versions break
# letters outside ASCII.
quoted() {
  local word between=""
  for word in "$@"; do
    printf '%s' "$between"
    between=" "
    case $word in
      "" | *[!A-Za-z0-9_@%+=:,./-]*)
        # The point keeps line breaks at the end of the word.
        word=$(printf '%s.' "$word" | sed "s/'/'\\\\''/g")
        printf "'%s'" "${word%.}"
        ;;
      *) printf '%s' "$word" ;;
    esac
  done
  printf '\n'
}

# Runs a command, or prints it with --dry-run.
call() {
  if [ -n "$DRY_RUN" ]; then
    quoted "$@"
  else
    "$@"
  fi
}

# Prints what makes a virtual environment (launch/environment.sh), for a dry run.
environment_command() {
  quoted bash -c ". launch/environment.sh && $(quoted make_environment "$@")"
}

# read_flags VALUES SWITCHES ARGUMENT...: --some-name sets SOME_NAME; what is no flag goes into the array rest.
# A flag wins over a variable of the environment; a switch in the environment is yes or no.
read_flags() {
  local values=" $1 " switches=" $2 DRY_RUN " flag name value
  shift 2
  for name in $values $switches; do
    printf -v "$name" '%s' "${!name:-}"
  done
  for name in $switches; do
    case ${!name} in
      yes | true | 1) printf -v "$name" yes ;;
      "" | no | false | 0) printf -v "$name" '' ;;
      *) fail "$name=${!name}: is neither yes nor no. Set $name=yes, or leave it out." ;;
    esac
  done
  rest=()
  while [ "$#" -gt 0 ]; do
    case $1 in
      --help | -h)
        usage
        exit 0
        ;;
      --)
        shift
        rest+=("$@")
        return 0
        ;;
      --*)
        flag=${1%%=*}
        name=$(printf '%s' "${flag#--}" | tr 'a-z-' 'A-Z_')
        case $switches in
          *" $name "*)
            [ "$flag" = "$1" ] || fail "$flag takes no value. $program --help explains it."
            printf -v "$name" yes
            shift
            continue
            ;;
        esac
        case $values in
          *" $name "*) ;;
          *) fail "$program has no option $flag. $program --help lists them." ;;
        esac
        if [ "$flag" != "$1" ]; then
          value=${1#*=}
          shift
        else
          case ${2:---} in
            --*) fail "$flag has no value. $program --help explains it." ;;
          esac
          value=$2
          shift 2
        fi
        printf -v "$name" '%s' "$value"
        ;;
      *)
        rest+=("$1")
        shift
        ;;
    esac
  done
}

# Name of the flag of a variable.
flag_of() {
  printf -- '--%s' "$1" | tr 'A-Z_' 'a-z-'
}

# need NAME EXAMPLE ...: all variables that are not set, in one line, each with an example.
need() {
  local missing="" example="" between=""
  while [ "$#" -gt 0 ]; do
    if [ -z "${!1}" ]; then
      missing=$missing$between$1
      example="$example $(flag_of "$1") $2"
      between=", "
    fi
    shift 2
  done
  if [ -n "$missing" ]; then
    fail "$program: not set: $missing. Set the variable in the environment, or give for example:$example"
  fi
}

# need_form NAME PATTERN EXAMPLE: a value that is set has this form.
need_form() {
  local pattern="^($2)\$"
  if [ -n "${!1}" ] && ! [[ ${!1} =~ $pattern ]]; then
    fail "$1=${!1}: is not understood. An example: $3"
  fi
}

need_number() {
  while [ "$#" -gt 0 ]; do
    need_form "$1" '[0-9]+' "$1=10"
    shift
  done
}

# need_program NAME HOW: the program is there. Not asked in a dry run, which runs nothing.
need_program() {
  if [ -z "$DRY_RUN" ] && ! command -v "$1" >/dev/null 2>&1; then
    fail "$1 is not installed. $2"
  fi
}

# All words are settings of r2d.
need_overrides() {
  local word
  for word in "$@"; do
    case $word in
      [A-Za-z_]*=*) ;;
      *) fail "$word: is not KEY=VALUE. Settings look like stage2.max_steps=500; $program --help lists flags." ;;
    esac
  done
}

# sure QUESTION: goes on only where a person says y, or with --yes.
sure() {
  local reply=""
  if [ -n "${YES:-}" ] || [ -n "$DRY_RUN" ]; then
    return 0
  fi
  printf '%s [y/N] ' "$1"
  read -r reply || true
  case $reply in
    y | Y | yes) ;;
    *)
      printf '\n'
      fail "nothing was done. Answer y, or give --yes."
      ;;
  esac
}

# Doubles $pause up to $PAUSE_MAX.
grow_pause() {
  pause=$((pause * 2))
  if [ "$pause" -gt "$PAUSE_MAX" ]; then
    pause=$PAUSE_MAX
  fi
}
