/* Datagrams: a question goes to a peer of the scenario, its answer comes back, late, twice or
 * never. */
#include "sim/network.h"

#include <errno.h>
#include <string.h>

enum { PEERS_MOST = 16, QUEUE_MOST = 32, PACKET_MOST = 65535 };

struct packet {
    struct packet *next;
    struct datagram *to; /* NULL: its socket was closed meanwhile */
    size_t count;
    uint8_t bytes[];
};

struct datagram {
    struct datagram *next;
    struct endpoint to;
    struct packet *first, *last; /* arrived */
    size_t queued;
    struct fiber *reader;
};

static struct {
    struct {
        struct endpoint at;
        sim_datagram_peer *peer;
        void *argument;
    } peers[PEERS_MOST];
    size_t peer_count;
    struct datagram *sockets;
    struct packet *under_way;
} net;

void sim_datagram_serve(const struct endpoint *at, sim_datagram_peer *peer, void *argument)
{
    INVARIANT(net.peer_count < PEERS_MOST);
    net.peers[net.peer_count].at = *at;
    net.peers[net.peer_count].peer = peer;
    net.peers[net.peer_count].argument = argument;
    net.peer_count++;
}

struct io_result datagram_open(const struct endpoint *to, struct datagram **socket)
{
    *socket = sim_new(sizeof **socket);
    (*socket)->to = *to;
    (*socket)->next = net.sockets;
    net.sockets = *socket;
    return io_ok(0);
}

static void packet_unlink(struct packet *packet)
{
    struct packet **link = &net.under_way;

    while (*link != packet)
        link = &(*link)->next;
    *link = packet->next;
    packet->next = NULL;
}

static void packet_arrive(void *argument)
{
    struct packet *packet = argument;
    struct datagram *socket = packet->to;

    packet_unlink(packet);
    if (!socket || socket->queued == QUEUE_MOST) {
        free(packet);
        return;
    }
    trace_bytes("packet", packet->count, bytes_of(packet->bytes, packet->count));
    if (socket->last)
        socket->last->next = packet;
    else
        socket->first = packet;
    socket->last = packet;
    socket->queued++;
    if (socket->reader)
        fiber_wake(socket->reader);
}

static void send_back(struct datagram *socket, struct bytes answer)
{
    struct packet *packet = sim_new(sizeof *packet + answer.count);

    packet->to = socket;
    packet->count = answer.count;
    if (answer.count > 0)
        memcpy(packet->bytes, answer.at, answer.count);
    packet->next = net.under_way;
    net.under_way = packet;
    events_add(deadline_in(draw_latency_us() + draw_latency_us()), packet_arrive, packet);
}

struct io_result datagram_send(struct datagram *socket, struct bytes packet)
{
    sim_die_if_crashed();
    trace_bytes("ask", packet.count, packet);
    if (packet.count > PACKET_MOST)
        return io_failed(EMSGSIZE);
    for (size_t i = 0; i < net.peer_count; i++) {
        if (!endpoint_matches(&net.peers[i].at, &socket->to))
            continue;
        uint8_t *answer = sim_new(PACKET_MOST);
        const size_t count =
            net.peers[i].peer(net.peers[i].argument, packet, (struct span){answer, PACKET_MOST});

        if (count > 0 && !sim_chance(weather()->loss_ppm))
            send_back(socket, bytes_of(answer, count));
        if (count > 0 && sim_chance(weather()->loss_ppm / 4))
            send_back(socket, bytes_of(answer, count));
        free(answer);
        break;
    }
    return io_ok(packet.count);
}

struct io_result datagram_receive(struct datagram *socket, struct span into, uint64_t deadline_us)
{
    enum io_status status = IO_OK;

    sim_die_if_crashed();
    if (fiber_cancelled())
        return io_status_only(IO_CANCELLED);
    while (!socket->first) {
        if (status != IO_OK)
            return io_status_only(status);
        socket->reader = fiber_self();
        status = fiber_park(deadline_us);
        socket->reader = NULL;
    }
    struct packet *packet = socket->first;
    const bool cut = packet->count > into.count; /* a cut packet is no packet */
    const size_t count = cut ? 0 : packet->count;

    socket->first = packet->next;
    if (!socket->first)
        socket->last = NULL;
    socket->queued--;
    if (count > 0)
        memcpy(into.at, packet->bytes, count);
    free(packet);
    return cut ? io_failed(EMSGSIZE) : io_ok(count);
}

void datagram_close(struct datagram *socket)
{
    struct datagram **link = &net.sockets;

    if (!socket)
        return;
    for (struct packet *packet = net.under_way; packet; packet = packet->next)
        if (packet->to == socket)
            packet->to = NULL;
    while (socket->first) {
        struct packet *next = socket->first->next;

        free(socket->first);
        socket->first = next;
    }
    while (*link != socket)
        link = &(*link)->next;
    *link = socket->next;
    free(socket);
}

void datagrams_close(void)
{
    while (net.sockets)
        datagram_close(net.sockets);
    while (net.under_way) {
        struct packet *next = net.under_way->next;

        free(net.under_way);
        net.under_way = next;
    }
}

void datagrams_forget(void)
{
    datagrams_close();
    net.peer_count = 0;
}
