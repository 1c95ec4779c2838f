/* ESMTP parameters of MAIL and RCPT. Private to the room. */
#ifndef WIRE_COMMAND_H
#define WIRE_COMMAND_H

#include "wire/wire.h"

/* Everything behind the path. Sets the command's first fault. */
void parameters_parse(struct arena *arena, struct bytes rest, struct smtp_command *command);

#endif
