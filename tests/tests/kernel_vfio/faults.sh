# In a guest with two NICs on one segment, the first ours, the second Linux's: what may go wrong with a device at work. The first NIC is gone at
# the end. The test works the cable and the slot when a line says so.
. /common.sh

our_ip=10.7.0.1 linux_ip=10.7.0.2

driver_of() { basename "$(readlink /sys/bus/pci/devices/"$1"/driver)"; }
linked() { [ "$(cat /sys/class/net/"$1"/carrier)" = 1 ]; }
listening() { ss -ltn | grep -q ':7000 '; }
got() { stat -c %s $work/got; }
moving() { [ "$(got)" -gt 300000 ]; }

# start BYTES: begins to send so many to Linux, and returns when some have arrived.
start() {
    : >$work/got
    nc -l -p 7000 </dev/null >$work/got &
    peer=$!
    until_true listening
    barewire connect --port "vfio:$NIC0" --ip $our_ip/24 $linux_ip:7000 --role source --bytes "$1" --json >$work/report 2>$work/said &
    ours=$!
    until_true moving
}

# end NAME: waits for our process, and tells how it ended. Where it ended well, Linux's side reads on to the end of the stream by itself.
end() {
    wait $ours
    status=$?
    tell "$1 status" $status
    tell "$1 report" "$(cat $work/report)"
    tell "$1 said" "$(tr '\n' ' ' <$work/said)"
    tell "$1 pinned" "$(pinned)"
    [ $status = 0 ] || kill $peer 2>/dev/null
    wait $peer
    tell "$1 got" "$(sha256sum <$work/got | cut -d' ' -f1)"
}

# give_back_and_take NAME: Linux's driver gets the NIC, reaches the other one, and loses it again.
give_back_and_take() {
    barewire unbind "$NIC0" >/dev/null
    near=$(interface_of "$NIC0")
    ip netns add near
    ip link set "$near" netns near
    ip -n near addr add $our_ip/24 dev "$near"
    ip -n near link set "$near" up
    until_true ip netns exec near ping -c 1 -W 1 $linux_ip && tell "$1 given back" true
    ip -n near link set "$near" netns 1
    ip netns del near
    barewire bind "$NIC0" >/dev/null && tell "$1 taken" "$(driver_of "$NIC0")"
}

barewire bind "$NIC0" >/dev/null || exit 1
linux=$(interface_of "$NIC1")
# Linux is to say nothing that it was not asked for.
echo 1 >/proc/sys/net/ipv6/conf/"$linux"/disable_ipv6
ip addr add $linux_ip/24 dev "$linux"
ip link set "$linux" up
until_true linked "$linux"

dma_fault "$NIC0" $our_ip $linux_ip
tell 'dma status' $?

start 16000000
echo 'cable out, please'
until_true grep -q 'link down' $work/said
sleep 2
before=$(got)
sleep 2
tell 'link still' "[$before,$(got)]"
echo 'cable in, please'
end link

start 2000000000
tell 'at work pinned' "$(pinned)"
kill -KILL $ours
end killed
tell 'killed driver' "$(driver_of "$NIC0")"
start 4000000
end again
give_back_and_take again

for signal in TERM INT; do
    start 2000000000
    kill -$signal $ours
    end $signal
    give_back_and_take $signal
done

start 2000000000
echo 'take the NIC away, please'
end removed
until_true [ ! -e /sys/bus/pci/devices/"$NIC0" ]
barewire ping --port "vfio:$NIC0" --ip $our_ip/24 $linux_ip 2>$work/said
tell 'gone status' $?
tell 'gone said' "$(cat $work/said)"
