/*
 * http_job.c - where a job connects and what it runs: made by a handler, freed after its outcome was told.
 *
 * A job belongs to its maker until hp_submit(), and to the pool from then on: it ends with one call of done(), or with hp_cancel() and none.
 * Targets hold passwords, which are wiped when they are freed; the pool tells targets apart by a hash of all keywords and values.
 *
 * Bounds: NH_MAX_KEYWORDS of a target, HT_MAX_BODY_BYTES of outcome, a deadline from the beginning.  Nothing here outlives the process.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <openssl/evp.h>

#include "http_pool.h"

bool
hp_target_key(const HpTarget *target, uint8_t key[32])
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	unsigned int len = 32;
	bool		ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);

	for (int i = 0; i < target->n && ok; i++)
		ok = EVP_DigestUpdate(ctx, target->keyword[i], strlen(target->keyword[i]) + 1) &&
			EVP_DigestUpdate(ctx, target->value[i], strlen(target->value[i]) + 1);
	ok = ok && EVP_DigestFinal_ex(ctx, key, &len);
	EVP_MD_CTX_free(ctx);
	return ok;
}

HpJob *
hp_job_with(HpStatement *statements, int nstatements)
{
	HpJob	   *job = calloc(1, sizeof(HpJob));

	if (!job)
		return NULL;
	job->statements = statements;
	job->nstatements = nstatements;
	job->out = ht_buf(HT_MAX_BODY_BYTES);
	job->deadline_ms = ht_now_ms() + ht_request_timeout_ms;
	return job;
}

HpJob *
hp_job(int nstatements)
{
	HpStatement *statements = calloc(nstatements, sizeof(HpStatement));
	HpJob	   *job = statements ? hp_job_with(statements, nstatements) : NULL;

	if (!job)
		free(statements);
	return job;
}

void
hp_free_statements(HpJob *job)
{
	nh_statements_free(job->statements, job->nstatements);
	job->statements = NULL;
}

void
hp_job_free(HpJob *job)
{
	hp_free_statements(job);
	nh_target_free(&job->target);
	ht_buf_free(&job->out);
	free(job);
}

void
hp_finish(HpJob *job)
{
	if (job->out.failed)
		hp_fail(job, 507, "53200", "out of memory");
	job->done(job, job->arg);
	hp_job_free(job);
}
