# Functions of the guests' scripts. What they find goes to standard output as lines of a name, a tab and JSON.

# Each NIC is in a root port of its own, in the order in which they were given to the guest.
export NIC0=0000:01:00.0 NIC1=0000:02:00.0

# Files of a script's own; the guest is gone before they are in anybody's way.
work=$(mktemp -d)

# tell NAME JSON: one line for the test to judge.
tell() { printf '%s\t%s\n' "$1" "$2"; }

# until_true COMMAND...: tries it ten times a second, for a minute.
until_true() {
    end=$(($(date +%s) + 60))
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt $end ] || { echo "not within a minute: $*" >&2; return 1; }
        sleep 0.1
    done
}

# interface_of ADDRESS: the name under which Linux drives the NIC there.
interface_of() {
    for path in /sys/bus/pci/devices/"$1"/net/* /sys/bus/pci/devices/"$1"/virtio*/net/*; do
        [ ! -e "$path" ] || echo "${path##*/}"
    done
}

# pinned: how many pages are held in place for devices to reach, in the whole guest.
pinned() {
    # Each processor counts by itself until told to add up.
    echo 1 >/proc/sys/vm/stat_refresh
    awk '/nr_foll_pin_acquired/ { pages += $2 } /nr_foll_pin_released/ { pages -= $2 } END { print pages }' /proc/vmstat
}
