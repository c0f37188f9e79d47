# In a guest with two NICs on one segment, and two more that share an IOMMU group behind a bridge: what a person may get wrong.
# usage: input.sh, or input.sh without-iommu
. /common.sh

our_ip=10.7.0.1 linux_ip=10.7.0.2

# The driver of every network device, one after another.
drivers() {
    for class in /sys/bus/pci/devices/*/class; do
        case $(cat "$class") in
            0x02*) basename "$(readlink "${class%class}driver" || echo none)" ;;
        esac
    done | tr '\n' ' '
}

# run NAME COMMAND...: tells how it ended, what it said on standard error, what it left behind, and whether any driver changed.
run() {
    name=$1 held=$(pinned) had=$(drivers)
    shift
    "$@" >$work/out 2>$work/said
    tell "$name status" $?
    tell "$name said" "$(tr '\n' '|' <$work/said)"
    tell "$name left" $(($(pinned) - held))
    [ "$(drivers)" = "$had" ] && changed=false || changed=true
    tell "$name changed" $changed
}

# ping_by ADDRESS: asks the Linux NIC through ours at ADDRESS.
ping_by() { barewire ping --port "vfio:$1" --ip $our_ip/24 $linux_ip --count 3; }
# user LIMIT COMMAND...: as an ordinary user who may lock LIMIT KiB.
user() (
    ulimit -l "$1"
    shift
    su trader -c "$*"
)
group_file() { echo /dev/vfio/"$(basename "$(readlink /sys/bus/pci/devices/"$1"/iommu_group)")"; }
free_hugepages() { awk '/HugePages_Free/ { print $2 }' /proc/meminfo; }

if [ "$1" = without-iommu ]; then
    run 'no IOMMU, bind' barewire bind "$NIC0"
    run 'no IOMMU, use' ping_by "$NIC0"
    exit
fi

# The two in one group: Linux drives them by its e1000.
set -- /sys/bus/pci/drivers/e1000/0000:*
first=${1##*/} second=${2##*/}
tell 'first' "$first"
tell 'second' "$second"
tell 'group file' "$(group_file "$NIC0")"

linux=$(interface_of "$NIC1")
ip netns add far
ip link set "$linux" netns far
ip -n far addr add $linux_ip/24 dev "$linux"
ip -n far link set "$linux" up

run 'absent, bind' barewire bind 0000:7f:00.0
run 'absent, use' ping_by 0000:7f:00.0
run 'no NIC' barewire bind 0000:00:1f.2

modprobe -r vfio-pci
run 'no vfio-pci' barewire bind "$NIC0"
modprobe vfio-pci

run 'not bound' ping_by "$NIC0"
run 'mended: bind' barewire bind "$NIC0"
run 'bound already' barewire bind "$NIC0"

barewire ping --port "vfio:$NIC0" --ip $our_ip/24 >/dev/null 2>&1 &
other=$!
until_true [ "$(pinned)" -gt 0 ]
run 'open elsewhere' ping_by "$NIC0"
kill $other
wait $other

run 'not permitted' user unlimited "barewire ping --port vfio:$NIC0 --ip $our_ip/24 $linux_ip"
chown trader "$(group_file "$NIC0")"
run 'memlock' user 64 "barewire ping --port vfio:$NIC0 --ip $our_ip/24 $linux_ip"
run 'mended: user' user unlimited "barewire ping --port vfio:$NIC0 --ip $our_ip/24 $linux_ip"
chown root "$(group_file "$NIC0")"

before=$(free_hugepages)
export RUST_LOG=info
run 'hugepages' ping_by "$NIC0"
unset RUST_LOG
tell 'hugepages free' "[$before,$(free_hugepages)]"

barewire bind "$first" >/dev/null
run 'group' ping_by "$first"
echo "$second" >/sys/bus/pci/devices/"$second"/driver/unbind
run 'mended: group' ping_by "$first"

barewire unbind "$NIC0" >/dev/null
ours=$(interface_of "$NIC0")
ip addr add 10.9.0.1/24 dev "$ours"
ip link set "$ours" up
ip route add default via 10.9.0.9
run 'default route, bind' barewire bind "$NIC0"
run 'default route, unbind' barewire unbind "$NIC0"
ip route del default
until_true ip -6 route add default dev "$ours"
run 'IPv6 default route' barewire bind "$NIC0"
run 'forced' barewire bind "$NIC0" --force
undo=$(sed -n 's/^ *undo *//p' $work/out)
tell 'undo' "$undo"
run 'undone' $undo
tell 'undone driver' "$(basename "$(readlink /sys/bus/pci/devices/"$NIC0"/driver)")"
