//! How often is every product looked at and sold, and what sells best?
//!
//! Teaches: a projection. The events of a product make its read model; `product` asks for one, `top` and
//! `days` look across all of them. Questions change nothing and hold up nobody.
//!
//! ```text
//! tidegate query analytics product --key lamp
//! GET /v1/plugins/analytics/query/top?by=amount&limit=3&prefix=garden-
//! GET /v1/plugins/analytics/query/days
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_sdk::projection::Projection;
use tidegate_sdk::{
    Answer, Event, Failure, Outcome, Request, Response, config_as, projection, reject,
};

const DAY_MS: u64 = 86_400_000;
const DAYS_DEFAULT: usize = 31;
const TOP_DEFAULT: usize = 10;
const TOP_MAX: usize = 1000;

/// What is counted, of a product and of a day.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sums {
    views: u64,
    sold: u64,
    amount: u64,
}

/// The read model of a product.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Product {
    all: Sums,
    /// The latest days with events, by their number since the Unix epoch.
    days: BTreeMap<u64, Sums>,
}

#[derive(Deserialize)]
enum Happened {
    #[serde(rename = "product.viewed")]
    Viewed,
    #[serde(rename = "product.sold")]
    Sold { quantity: u64, amount: u64 },
}

impl Projection for Product {
    type Event = Happened;

    fn apply(&mut self, event: Happened, about: &Event) -> Outcome {
        let more = match event {
            Happened::Viewed => Sums { views: 1, ..Sums::default() },
            Happened::Sold { quantity, amount } => Sums { views: 0, sold: quantity, amount },
        };
        let day = about.time_ms().unwrap_or(about.recorded_ms()) / DAY_MS;
        self.all.add(more);
        self.days.entry(day).or_default().add(more);
        let days = config_as("days")?.unwrap_or(DAYS_DEFAULT);
        while self.days.len() > days {
            self.days.pop_first();
        }
        Ok(())
    }
}

impl Sums {
    fn add(&mut self, more: Self) {
        self.views = self.views.saturating_add(more.views);
        self.sold = self.sold.saturating_add(more.sold);
        self.amount = self.amount.saturating_add(more.amount);
    }
}

projection! { Product, "product" => product, "top" => top, "days" => days }

/// One product.
fn product(request: &Request) -> Answer {
    let key = request.key().ok_or_else(|| reject("`product` needs a key: ask with `--key`"))?;
    let product: Product = projection::load()?;
    if product.days.is_empty() {
        return Err(reject(format!("nothing has happened to `{key}`")));
    }
    Ok(Response::json(&product)?)
}

#[derive(Serialize)]
struct Ranked {
    product: String,
    #[serde(flatten)]
    sums: Sums,
}

/// The best products: `by` views, sold or amount, `limit` of them, with the `prefix`.
fn top(request: &Request) -> Answer {
    let by: fn(&Sums) -> u64 = match request.attribute("by") {
        None | Some("amount") => |sums| sums.amount,
        Some("sold") => |sums| sums.sold,
        Some("views") => |sums| sums.views,
        Some(other) => {
            return Err(reject(format!("`by` is views, sold or amount, found `{other}`")));
        }
    };
    let limit = limit(request)?;
    let mut best: Vec<Ranked> = Vec::new();
    for model in projection::all::<Product>(request.attribute("prefix").unwrap_or_default()) {
        let (product, Product { all: sums, .. }) = model?;
        // Of equal ones the first by name.
        let at = best.partition_point(|other| by(&other.sums) >= by(&sums));
        if at < limit {
            best.insert(at, Ranked { product, sums });
            best.truncate(limit);
        }
    }
    Ok(Response::json(&best)?)
}

fn limit(request: &Request) -> Result<usize, Failure> {
    let Some(text) = request.attribute("limit") else { return Ok(TOP_DEFAULT) };
    match text.parse() {
        Ok(limit) if (1..=TOP_MAX).contains(&limit) => Ok(limit),
        _ => Err(reject(format!("`limit` is 1 to {TOP_MAX}, found `{text}`"))),
    }
}

/// All products together, day by day.
fn days(request: &Request) -> Answer {
    let mut days: BTreeMap<u64, Sums> = BTreeMap::new();
    for model in projection::all::<Product>(request.attribute("prefix").unwrap_or_default()) {
        for (day, sums) in model?.1.days {
            days.entry(day).or_default().add(sums);
        }
    }
    Ok(Response::json(&days)?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidegate_sdk::reject;
    use tidegate_sdk::testing::{Ask, Host, Input, event, request};

    use super::{DAY_MS, handle, read};

    fn sold(product: &str, day: u64, quantity: u64, amount: u64) -> Input {
        let data = json!({ "quantity": quantity, "amount": amount });
        event("product.sold").key(product).time_ms(day * DAY_MS + 5).json(&data)
    }

    fn shop() -> Host {
        let mut host = Host::new();
        for input in [
            sold("lamp", 10, 1, 40),
            sold("lamp", 11, 2, 80),
            sold("vase", 11, 9, 90),
            sold("sofa", 11, 1, 900),
            event("product.viewed").key("vase").time_ms(11 * DAY_MS),
        ] {
            host.deliver(handle, input).expect_ok();
        }
        host
    }

    fn ask(host: &mut Host, ask: Ask) -> Value {
        serde_json::from_slice(host.read(read, ask).unwrap().body()).unwrap()
    }

    #[test]
    fn one_product_has_its_sums_and_its_days() {
        let lamp = ask(&mut shop(), request("product").key("lamp"));
        assert_eq!(lamp["all"], json!({ "views": 0, "sold": 3, "amount": 120 }));
        assert_eq!(lamp["days"]["10"], json!({ "views": 0, "sold": 1, "amount": 40 }));
        let none = shop().read(read, request("product").key("desk"));
        assert_eq!(none, Err(reject("nothing has happened to `desk`")));
    }

    #[test]
    fn the_best_are_found_across_products() {
        let mut host = shop();
        let names = |answer: Value| -> Vec<String> {
            let all = answer.as_array().unwrap().iter();
            all.map(|ranked| ranked["product"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(ask(&mut host, request("top"))), ["sofa", "lamp", "vase"]);
        let sold = request("top").attribute("by", "sold").attribute("limit", "2");
        assert_eq!(names(ask(&mut host, sold)), ["vase", "lamp"]);
        let prefix = request("top").attribute("by", "views").attribute("prefix", "v");
        let first = json!([{ "product": "vase", "views": 1, "sold": 9, "amount": 90 }]);
        assert_eq!(ask(&mut host, prefix), first);
        assert!(host.read(read, request("top").attribute("by", "luck")).is_err());
        assert!(host.read(read, request("top").attribute("limit", "0")).is_err());
    }

    #[test]
    fn days_add_up_and_old_ones_are_let_go() {
        let mut host = shop();
        let days = ask(&mut host, request("days"));
        assert_eq!(days["11"], json!({ "views": 1, "sold": 12, "amount": 1070 }));
        let mut host = Host::new().with_config("days", "2");
        for day in 1..5 {
            host.deliver(handle, sold("lamp", day, 1, 1)).expect_ok();
        }
        let days = ask(&mut host, request("days"));
        assert_eq!(days.as_object().unwrap().keys().collect::<Vec<_>>(), ["3", "4"]);
    }

    #[test]
    fn sample_is_a_sale() {
        let mut host = Host::new();
        let sample = Input::cloud_event(include_str!("../events/product-sold.json"));
        host.deliver(handle, sample).expect_ok();
        assert_eq!(ask(&mut host, request("top"))[0]["amount"], 80);
    }
}
