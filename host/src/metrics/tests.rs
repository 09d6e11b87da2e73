use super::*;

#[test]
fn every_name_of_the_interface_is_there() {
    let metrics = Metrics::new();
    let bus = metrics.bus("main", || BusGauges { last_position: 17 });
    let plugin = metrics.plugin("mail", || PluginGauges {
        lag_events: 3,
        parked_keys: 2,
        dead_letters: 1,
        oldest_dead_letter_seconds: 2.5,
    });
    bus.appended.add(5);
    bus.append_duration.observe(Duration::from_micros(20));
    plugin.delivered(OutcomeKind::Trap);
    plugin.delivered(OutcomeKind::Trap);
    plugin.fuel.add(100);
    plugin.reloaded(Reload::Ok);
    plugin.delivery_duration.observe(Duration::from_secs(1000));
    plugin.delivery_lag.observe(Duration::ZERO);
    let text = metrics.encode();
    for line in [
        "tidegate_events_appended_total{bus=\"main\"} 5",
        "tidegate_append_duration_seconds_bucket{le=\"0.00001\",bus=\"main\"} 0",
        "tidegate_append_duration_seconds_bucket{le=\"0.000025\",bus=\"main\"} 1",
        "tidegate_append_duration_seconds_count{bus=\"main\"} 1",
        "tidegate_log_last_position{bus=\"main\"} 17",
        "tidegate_deliveries_total{plugin=\"mail\",outcome=\"trap\"} 2",
        "tidegate_deliveries_total{plugin=\"mail\",outcome=\"ok\"} 0",
        "tidegate_delivery_duration_seconds_bucket{le=\"+Inf\",plugin=\"mail\"} 1",
        "tidegate_delivery_duration_seconds_sum{plugin=\"mail\"} 1000.0",
        "tidegate_delivery_lag_seconds_count{plugin=\"mail\"} 1",
        "tidegate_plugin_lag_events{plugin=\"mail\"} 3",
        "tidegate_plugin_fuel_total{plugin=\"mail\"} 100",
        "tidegate_plugin_parked_keys{plugin=\"mail\"} 2",
        "tidegate_dead_letters{plugin=\"mail\"} 1",
        "tidegate_oldest_dead_letter_seconds{plugin=\"mail\"} 2.5",
        "tidegate_reloads_total{plugin=\"mail\",result=\"ok\"} 1",
        "tidegate_reloads_total{plugin=\"mail\",result=\"refused\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
    }
}

#[test]
fn a_plugin_that_is_gone_is_not_shown() {
    let metrics = Metrics::new();
    let plugin = metrics.plugin("mail", PluginGauges::default);
    assert!(metrics.encode().contains("mail"));
    drop(plugin);
    assert!(!metrics.encode().contains("mail"));
}

#[test]
fn threads_add_up() {
    let counter = Counter::default();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| (0..1000).for_each(|_| counter.add(1)));
        }
    });
    assert_eq!(counter.get(), 20_000);
}
