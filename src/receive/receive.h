/*
 * receive: one fiber per client, the SMTP dialogue as linear code.
 *
 * Flow:   listener -> session fiber -> commands -> draft -> policy_judge -> spool_commit -> 250.
 * Owns:   its listeners and sessions; per session a connection arena and a transaction arena.
 * Sleeps: on clients, and inside policy and spool.
 * Fails:  towards the client, always with a reply that has a cause; a fiber that ends early says
 * 421. Never:  says 250 after DATA without receipt.durable.
 */
#ifndef RECEIVE_RECEIVE_H
#define RECEIVE_RECEIVE_H

#include "base/base.h"
#include "config/config.h"
#include "crypto/crypto.h"
#include "directory/directory.h"
#include "policy/policy.h"
#include "runtime/runtime.h"
#include "spool/spool.h"

struct receive;
struct receive_settings {
    const struct config *config;
    struct policy *policy;
    struct spool *spool;
    struct directory *directory;
    struct tls_context *tls;  /* NULL: no STARTTLS */
    bool picks_up;            /* mail left in the drop directory */
    uint32_t connections_max; /* what the machine can bear, below the configuration; 0: any */
    struct receive *former;   /* whose rates go on here; NULL: none */
};
/* Opens the listeners on every session loop. Sleeps. */
MUST_USE struct receive *receive_open(const struct receive_settings *settings, char *why,
                                      size_t why_room);
/* The address of a listener by its name in the configuration (its port may have been 0). */
const struct endpoint *receive_address(const struct receive *receive, const char *name);
/* The former stops listening; its sessions go on to their own end, by its own settings, while those
 * to come are `heir`'s, and so is the drop directory. What stands in a queue that nobody else
 * listens to is still served. Sleeps. */
void receive_retire(struct receive *receive, struct receive *heir);
bool receive_has_left(const struct receive *receive);
/* Stops listening, lets sessions reach their reply (421 server.stopping to idle ones), then ends
 * them. Sleeps. */
void receive_stop(struct receive *receive, uint64_t deadline_us);
/* False: sessions are still under way (the disk hangs), so nothing was freed, and nothing that they
 * use may be. */
bool receive_close(struct receive *receive);
uint32_t receive_session_count(const struct receive *receive);

/* ------------------------------------------------------------------ the drop directory
 * (docs/sendmail.md) */

#define PICKUP_OPEN "new-"   /* names of files that are being written */
#define PICKUP_READY "mail-" /* that are picked up */

#endif
