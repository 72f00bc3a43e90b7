/*
 * http_main.c - the HTTP side: its settings and its worker.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "http_main.h"

void
px_http_register_worker(void)
{
}
