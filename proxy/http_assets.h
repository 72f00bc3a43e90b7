/*
 * http_assets.h - the console page's files, embedded by console/embed.pl.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef HTTP_ASSETS_H
#define HTTP_ASSETS_H

typedef struct HtAsset
{
	const char *name;
	const char *content_type;
	const char *data;
	size_t		len;
} HtAsset;

extern const HtAsset ht_assets[];	/* ends with a NULL name */

#endif							/* HTTP_ASSETS_H */
