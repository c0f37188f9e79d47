# In a guest: one path from Linux to us over a TAP interface, one from Linux to Linux over veth, both in the same trouble.
# usage: netem.sh BYTES NETEM...: three rounds of the transfers from Linux to Linux, from Linux to us and from us to Linux.
. /common.sh

bytes=$1
shift

# single INTERFACE [NAMESPACE]: one segment a packet from here, or netem would lose and delay whole bursts of them as one. TCP builds bursts
# whatever the device can do, unless it is told how few segments they may have.
single() {
    in_space="${2:+ip netns exec $2}"
    $in_space ethtool -K "$1" tx off tso off gso off gro off
    $in_space ip link set dev "$1" gso_max_segs 1
}

# trouble INTERFACE MIRROR NETEM...: netem on both ways, by an ifb in front of what comes in.
trouble() {
    interface=$1 mirror=$2
    shift 2
    ip link add "$mirror" type ifb
    ip link set "$mirror" up
    single "$interface"
    tc qdisc add dev "$interface" ingress
    tc filter add dev "$interface" ingress matchall action mirred egress redirect dev "$mirror"
    for way in "$interface" "$mirror"; do
        tc qdisc add dev "$way" root netem "$@" limit 10000
    done
}

# ended NAME PROCESS...: tells what both ends found, and what netem did on the way of the data.
ended() {
    name=$1
    shift
    for process in "$@"; do
        wait "$process" || echo "$name: an end failed" >&2
    done
    tell "$name source" "$(cat $work/source)"
    tell "$name sink" "$(cat $work/sink)"
}

listening() { ss -ltnH "sport = :5000" "$@" | grep -q 5000; }

linux_to_linux() {
    ip netns exec far linux_peer listen 10.8.0.2:5000 sink 0 >$work/sink &
    sink=$!
    linux_peer connect 10.8.0.2:5000 source "$bytes" >$work/source &
    ended "$1" $! $sink
}

linux_to_us() {
    barewire listen 5000 --role sink $ours >$work/sink &
    sink=$!
    linux_peer connect 10.9.0.2:5000 source "$bytes" >$work/source &
    ended "$1" $! $sink
}

us_to_linux() {
    linux_peer listen 10.9.0.1:5000 sink 0 >$work/sink &
    sink=$!
    until_true listening
    barewire connect 10.9.0.1:5000 --role source --bytes "$bytes" $ours >$work/source &
    ended "$1" $! $sink
}

ours='--port tap:bw0 --ip 10.9.0.2/24 --idle sleep --window 4194304 --seconds 300 --json'
for module in tun veth ifb; do
    modprobe $module
done
# What one transfer learnt of the path is not for the next one.
echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save
ip netns add far
ip link add va type veth peer name vb netns far
ip address add 10.8.0.1/24 dev va
ip link set va up
ip -n far address add 10.8.0.2/24 dev vb
ip -n far link set vb up
single vb far
ip netns exec far sh -c 'echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save'
ip tuntap add bw0 mode tap
ip address add 10.9.0.1/24 dev bw0
ip link set bw0 up
trouble va mirror0 "$@"
trouble bw0 mirror1 "$@"

for round in 1 2 3; do
    linux_to_linux "linux $round"
    linux_to_us "in $round"
    us_to_linux "out $round"
done
tell trouble "$(tc -j -s qdisc show dev bw0 root)"
