# In a guest with two NICs on one segment: Linux drives the second, behind a bridge that snoops IGMP as a switch would; the first is ours.
# usage: traffic.sh DATAGRAMS_PER_SECOND [direct]; 'direct' lets the second NIC reach memory without a translation.
. /common.sh

rate=$1
group_file=/dev/vfio/$(basename "$(readlink /sys/bus/pci/devices/$NIC0/iommu_group)")
linux_ip=10.0.0.2 our_ip=10.0.0.1
group=239.1.1.1

# What /sys says of a device, in the form of `barewire devices --json`.
sys_of() {
    device=/sys/bus/pci/devices/$1
    driver=$(readlink "$device/driver") iommu_group=$(readlink "$device/iommu_group")
    interface=$(interface_of "$1") up=null speed=null
    if [ -n "$interface" ] && carrier=$(cat "/sys/class/net/$interface/carrier" 2>/dev/null); then
        [ "$carrier" = 1 ] && up=true || up=false
        speed=$(cat "/sys/class/net/$interface/speed" 2>/dev/null) && [ "$speed" -gt 0 ] || speed=null
    fi
    printf '{"address":"%s","ids":"%.4s:%.4s","driver":"%s","iommu_group":%s,"interface":"%s","up":%s,"speed_mbps":%s}' "$1" \
        "$(cut -c3- "$device/vendor")" "$(cut -c3- "$device/device")" "${driver##*/}" "${iommu_group##*/}" "$interface" "$up" "$speed"
}

# Both views of both NICs.
tell_devices() {
    tell "$1 devices" "$(barewire devices --json)"
    tell "$1 sys" "[$(sys_of "$NIC0"),$(sys_of "$NIC1")]"
}

# Starts one of our commands in the background, as $user; its report is told by `ours_ended NAME`.
ours() {
    # The shell that su starts makes way for the command: a signal to su's process reaches it.
    set -- su -- "$user" -c 'exec barewire "$@"' sh "$@" --port "vfio:$NIC0$rings" --ip $our_ip/24
    "$@" --idle "$idle" --seconds 150 --json >$work/ours &
    ours=$!
}
ours_ended() {
    wait $ours || echo "$1: ours ended with status $?" >&2
    tell "$1 ours" "$(cat $work/ours)"
}

theirs() {
    linux_peer "$@" >$work/theirs &
    theirs=$!
}
theirs_ended() {
    wait $theirs || echo "$1: Linux's side ended with status $?" >&2
    tell "$1 theirs" "$(cat $work/theirs)"
}

linux_has() { [ -n "$(interface_of "$1")" ]; }
linked() { [ "$(cat "/sys/class/net/$linux/carrier")" = 1 ]; }
reachable() { until_true ping -c 1 -W 1 $our_ip; }
forwards_group() { bridge mdb show dev br0 | grep -q $group; }
holds_group_no_more() { ! forwards_group; }
# The kernel prints an address as a number of its own byte order.
joined_by_linux() { grep -q 010101EF /proc/net/igmp; }

# Linux asks, then we do, each with an empty table of neighbours.
pings() {
    ip neigh flush dev br0
    ours ping
    reachable || kill -TERM $ours
    tell "$1 ping" "$(ping -c 20 -i 0.1 $our_ip | grep received)"
    tell "$1 neighbours" "$(ip -j neigh show dev br0)"
    kill -TERM $ours
    ours_ended "$1 answering"
    ours ping $linux_ip --count 20 --interval-ms 100
    ours_ended "$1 asking"
}

# TCP from Linux and to Linux, $2 bytes each way.
transfers() {
    ours listen 5000 --role sink
    theirs connect $our_ip:5000 source "$2"
    theirs_ended "$1 tcp in"
    ours_ended "$1 tcp in"
    theirs listen $linux_ip:5000 sink 0
    ours connect $linux_ip:5000 --role source --bytes "$2"
    ours_ended "$1 tcp out"
    theirs_ended "$1 tcp out"
}

# Datagrams to a group from Linux and to Linux, $2 each way.
datagrams() {
    ours multicast receive $group:6000 --count "$2"
    until_true forwards_group
    tell "$1 joined" "$(bridge -j mdb show dev br0)"
    # QEMU's e1000 takes no frame in the first second after it was switched on.
    reachable
    theirs send $group:6000 $linux_ip "$2" "$rate"
    theirs_ended "$1 group in"
    ours_ended "$1 group in"
    until_true holds_group_no_more && tell "$1 left" true
    theirs receive $group:6000 $linux_ip "$2"
    until_true joined_by_linux
    ours multicast send $group:6000 --count "$2" --rate "$rate"
    ours_ended "$1 group out"
    theirs_ended "$1 group out"
}

tell_devices before
barewire bind $NIC0 >/dev/null
if [ "${2-}" = direct ]; then
    echo $NIC1 >/sys/bus/pci/devices/$NIC1/driver/unbind
    echo identity >/sys/bus/pci/devices/$NIC1/iommu_group/type
    echo $NIC1 >/sys/bus/pci/drivers_probe
    until_true linux_has $NIC1
fi
linux=$(interface_of $NIC1)
# A ring as long as the NIC allows: our sender does not wait until Linux finds the time.
ethtool -G "$linux" rx 4096 2>/dev/null
# The usual one, fq_codel, drops datagrams that waited long, as they do on a busy machine.
echo pfifo_fast >/proc/sys/net/core/default_qdisc
ip link add br0 type bridge mcast_querier 1
ip link set "$linux" master br0
ip link set "$linux" up
ip address add $linux_ip/24 dev br0
ip link set br0 up
until_true linked
tell_devices bound

user=root idle=spin rings=''
pings root
transfers root 33554432
# A fifth of a second and more in each ring: nobody has the processor always.
rings='?rxd=4096'
datagrams root 100000

# An ordinary user, who owns nothing but the group's file, and sleeps until the NIC interrupts.
user=trader idle=sleep rings=''
tell refused "$(su trader -c "barewire ping --port vfio:$NIC0 --ip $our_ip/24" 2>&1)"
chown trader "$group_file"
pings trader
transfers trader 4194304
datagrams trader 5000

# Trouble both ways: ifb0 stands for the way to Linux. One segment a packet, or the loss would hit whole bursts of them.
user=root idle=spin
modprobe ifb numifbs=1
ip link set ifb0 up
ethtool -K "$linux" tso off gso off gro off
ethtool -K br0 tso off gso off
tc qdisc add dev "$linux" ingress
tc filter add dev "$linux" ingress matchall action mirred egress redirect dev ifb0
for way in "$linux" ifb0; do
    tc qdisc add dev "$way" root netem delay 1ms loss 1% reorder 1% duplicate 1% limit 10000
done
transfers trouble 4194304
tell 'trouble from Linux' "$(tc -j -s qdisc show dev "$linux" root)"
tell 'trouble to Linux' "$(tc -j -s qdisc show dev ifb0 root)"

barewire unbind $NIC0 >/dev/null
until_true linux_has $NIC0
tell_devices after
tell faults "$(dmesg | grep -c 'DMAR:.*fault')"
