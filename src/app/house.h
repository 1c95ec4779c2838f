/*
 * house: the rooms in the order in which they open and close, for the server and for its
 * simulation, which run the same wiring over two worlds.
 *
 * Flow:   house_open (disk, knowledge, delivery) -> what else belongs in between (the console) ->
 * house_open_doors -> ... -> house_stop -> house_close.
 * Owns:   every room but the TLS contexts, which are the caller's and outlive house_close.
 * Sleeps: all four.
 * Fails:  by `why`; what was opened until then stays open for house_close.
 */
#ifndef APP_HOUSE_H
#define APP_HOUSE_H

#include "config/config.h"
#include "crypto/crypto.h"
#include "deliver/deliver.h"
#include "diagnose/diagnose.h"
#include "directory/directory.h"
#include "history/history.h"
#include "policy/policy.h"
#include "receive/receive.h"
#include "resolve/resolve.h"
#include "schedule/schedule.h"
#include "spool/spool.h"

#define HOUSE_WHY_ROOM 512

struct house {
    /* Given by the caller. */
    const struct config *config;
    struct spool_settings spool_sizes; /* zero members: the defaults; its directory is not read */
    struct tls_context *tls_in, *tls_out; /* NULL: no TLS that way */
    struct key_service *keys;             /* NULL: keys are read from their files */
    bool picks_up;                        /* what sendmail left in the drop directory */
    uint32_t connections_max;             /* what the machine can bear; 0: as configured */
    const char *runner;                   /* socket of the runner of commands; NULL or "": none */

    struct spool *spool;
    struct history *history;
    struct resolver *resolver;
    struct directory *directory;
    struct policy *policy;
    struct deliver *deliver;
    struct schedule *schedule;
    struct operator_desk *desk; /* tells the operator of incidents */
    struct receive *receive;    /* NULL until the doors are open */
    char why[HOUSE_WHY_ROOM];
};

MUST_USE bool house_open(struct house *house);
/*
 * A new configuration in a running house. `next` has what the caller gives; on success it and the
 * house have changed places: what was before is in `next`, and serves those who came before, until
 * house_has_left says that it can be closed by house_leave. False with next->why: nothing changed.
 * Spool and history stay. Sleep.
 */
MUST_USE bool house_renew(struct house *house, struct house *next);
MUST_USE bool house_has_left(const struct house *house, const struct house *former);
void house_leave(struct house *former);
MUST_USE bool house_open_doors(struct house *house);
/* Nothing new comes in, what is under way ends. */
void house_stop(struct house *house, uint64_t deadline_us);
/* False: the disk hangs and holds fibers back beyond the deadline. Then what they stand on is left
 * as it is, to the end of the process: a next start recovers as after a kill. */
bool house_close(struct house *house);

#endif
