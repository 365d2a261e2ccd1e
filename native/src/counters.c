#include "counters.h"

#include "table.h"

#include <assert.h>

static_assert(sizeof(struct mcr_interface_counters) == 8 * (4 + MCR_IGNORED_REASONS),
	      "mcr/wire/counters.py reads it so");
static_assert(sizeof(struct mcr_rule_counters) == 16, "mcr/wire/counters.py reads it so");
static_assert(sizeof(struct mcr_output_counters) == 8 * (2 + MCR_NOT_SENT_REASONS),
	      "mcr/wire/counters.py reads it so");

static void settle_interface(struct mcr_interface_counters *interface)
{
	interface->ignored[MCR_IGNORED_INTERRUPTED] +=
		interface->received - interface->matched -
		mcr_counters__sum(interface->ignored, MCR_IGNORED_REASONS);
}

static void settle_output(struct mcr_output_counters *output, uint64_t matched)
{
	output->not_sent[MCR_NOT_SENT_INTERRUPTED] +=
		matched - output->sent - mcr_counters__sum(output->not_sent, MCR_NOT_SENT_REASONS);
}

/*
 * The predecessor had counted datagrams as received and matched whose fate it had no time to count.
 * They get a fate of their own, so that the sums stay true for ever after.
 */
void mcr_counters__settle(struct mcr_shared *shared, const struct mcr_table *table)
{
	if (!(shared->sequence & 1))
		return;
	for (uint32_t slot = 0; slot < MCR_MAX_INTERFACES; slot++)
		settle_interface(&shared->interfaces[slot]);
	for (uint32_t i = 0; i < table->header.rules; i++) {
		const struct mcr_rule *rule = &table->rules[i];

		for (uint32_t n = 0; n < rule->outputs; n++)
			settle_output(&shared->outputs[table->outputs[rule->first_output + n].slot],
				      shared->rules[rule->slot].matched);
	}
	shared->sequence++;
}
